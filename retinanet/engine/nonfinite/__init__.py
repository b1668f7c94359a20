"""Steps whose gradient is not finite: masking, saving, replaying and reporting them."""
