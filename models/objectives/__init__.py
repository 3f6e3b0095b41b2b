"""What is minimised: one file a kind, with how its batches are made, its loss, and what it says of a trained model."""
