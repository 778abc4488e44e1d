"""From an author's file to something that can be run, with every fault on the way; and what it is made of."""
