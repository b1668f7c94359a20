"""Steps with non-finite gradients: masking, saving, replaying and reporting them."""
