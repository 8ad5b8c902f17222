"""What is shown in a browser: the catalog of papers as a static site, its feed, and a server for this machine alone."""
