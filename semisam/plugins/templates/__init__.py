"""Templates of ``semisam new``: an installable plugin project with a working part and its tests."""
