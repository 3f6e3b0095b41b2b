"""Tokenizers: learnt or adopted, their special tokens, and the engines that encode with them."""
