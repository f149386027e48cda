"""The trace as a document: its fields, its arrays, its JSON, its figures, its page. Runs no model."""
