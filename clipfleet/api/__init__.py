"""What the commands do, as functions: `clipfleet.embed`, `clipfleet.evaluate`, and so on."""
