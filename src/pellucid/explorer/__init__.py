"""The explorer: one page that shows a real model generating, and what serves it."""
