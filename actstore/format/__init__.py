"""What a store is: names, tables, arrays and records of format 1, as FORMAT.md has them."""
