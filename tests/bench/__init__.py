"""How long reading and joining take: a generator of reports of any size, and what stands beside us on the same file."""
