"""HTML for people: one theme, blocks that a page is made of, charts, and the one template that shows them."""
