"""What training minimises: class losses, box losses, and the criterion that combines them."""
