"""A table of results as Markdown, LaTeX, CSV and pictures. The same records give the same bytes."""
