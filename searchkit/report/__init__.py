"""The report: a pure function of the run, drawn three times (HTML, Markdown, JSON) from one plain dict."""
