"""Cards, claims and evidence: what a paper says, how it is held to that, and what came out."""
