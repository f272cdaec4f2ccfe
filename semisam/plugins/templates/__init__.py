"""What ``semisam new`` writes: an installable plugin project with a working part and its tests."""
