"""What people read: summary lines, tables, the HTML report. Nothing here prints."""
