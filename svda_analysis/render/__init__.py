"""Ways to show a document: markdown, LaTeX, the terminal, HTML, and a folder of files. No torch here."""
