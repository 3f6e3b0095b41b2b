"""The family of text: the transformer, Hugging Face's models, folders of either, and what they write."""
