"""All of it on one machine: start, supervise, drain, and the servers that are not ours."""
