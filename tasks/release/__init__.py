"""What a night hands out: the exported model and the report's pages."""
