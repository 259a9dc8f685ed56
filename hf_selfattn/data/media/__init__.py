"""What images and sounds have in common: folders, tables and data sets of files, and the rows that name them."""
