"""What goes on in the driver: checks, ETL, attempts, the result."""
