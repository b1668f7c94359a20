"""The paper's tables and figures: what is trained for them, and what is made of it."""
