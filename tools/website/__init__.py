"""The website: chapters, glossary, plans, prints and slides from the saved notebooks; nothing is executed."""
