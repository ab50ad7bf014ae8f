"""What is kept of users, for how long, and where a user is still to be found."""
