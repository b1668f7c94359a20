"""Steps with a non-finite gradient: masking, saving, replaying and reporting them."""
