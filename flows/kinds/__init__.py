"""One flow a kind of data (text, images, items), and the parts that the flow of text is made of."""
