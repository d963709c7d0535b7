"""Files of any length to rows, tables and pages."""
