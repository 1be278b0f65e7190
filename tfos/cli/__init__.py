"""pl_submit: its command line, the submission, and what it says of runs."""
