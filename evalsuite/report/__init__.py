"""What people read: summary lines, tables, HTML of a run, a sweep, a leaderboard. Nothing prints.

A run's report is a list of sections. A section is one module in `sections/` with one function,

    def pictures(run: LoadedRun) -> Part | None:

which is given the run (`loaded.LoadedRun`: what several sections need is a property there, read
once) and returns its HTML, or None where the run has nothing of the kind; then neither heading nor
link appear. To add one:

1. `sections/NAME.py`: the function. It fills a template of its own with `environment.fill`, which
   escapes every value that is no Markup, and returns `Part(html)`. Pictures that would make the
   page heavy go into `Part.files`, which are written next to `index.html` and shown by a plain
   `<img loading="lazy">` of that relative path; pages opened from a disk may not fetch.
2. `templates/sections/NAME.html.j2`: what stands below the section's `h2`, beginning with `h3`.
   Macros are in `macros.html.j2`; a table is `<table class="stack" role="table">` with a caption,
   scopes and `data-label`s, so that it stacks on a phone. Charts come from `charts.py`.
3. A line in `sections/listed.py`: the name (the anchor), the title, the function.

Style and behaviour are shared: `templates/report.css` and `templates/report.js`, the one script
that the page's policy admits. A section works without it.
"""
