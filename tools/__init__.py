"""What authors and teachers run; notebooks import nothing from here."""
