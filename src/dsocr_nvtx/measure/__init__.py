"""What the machine itself gives: its roofs measured, its power and clocks read, and what it lacks."""
