"""Every page and plot: run, study and diagnosis reports, comparisons, trends. HTML that needs no network."""
