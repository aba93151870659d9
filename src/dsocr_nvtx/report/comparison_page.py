"""A comparison as one static HTML page: no scripts, nothing fetched, every name escaped."""

from jinja2 import Environment, StrictUndefined

from dsocr_nvtx.compare.comparison import Comparison
from dsocr_nvtx.compare.lines import place
from dsocr_nvtx.report import changes

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Comparison of two runs</title>
<style>
:root { color-scheme: light dark; --line: #8886; --page: #fff; --ink: #1b1b1b; }
:root { --good: #0a6b2d; --bad: #b3171d; --open: #8a5a00; }
@media (prefers-color-scheme: dark) {
:root { --page: #161616; --ink: #eee; --good: #5fd38a; --bad: #ff8f8f; --open: #f0c060; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { font-weight: 600; padding: .5rem 0; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
.better { color: var(--good); } .worse { color: var(--bad); } .inconclusive { color: var(--open); }
.scroll { overflow-x: auto; }
</style>
</head>
<body>
<main>
<h1>Comparison of two runs</h1>
<dl>
<dt>A</dt><dd>{{ found.a.where }}: {{ found.a.about.get("device", "unknown device") }}</dd>
<dt>B</dt><dd>{{ found.b.where }}: {{ found.b.about.get("device", "unknown device") }}</dd>
<dt>Level</dt><dd>{{ found.a.level }}</dd>
</dl>
{% if notes %}<section aria-labelledby="notes"><h2 id="notes">Be wary of</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul></section>{% endif %}
<section aria-labelledby="verdict"><h2 id="verdict">What changed</h2>
<ul>{% for stage in found.stages %}<li class="{{ stage.total.verdict }}">{{ headline(stage) }}</li>{% endfor %}</ul>
<p>{{ counts }}. {{ legend }}. {{ limits }}.</p>
</section>
{% for stage in found.stages %}
<section aria-labelledby="stage-{{ loop.index }}"><h2 id="stage-{{ loop.index }}">{{ stage.stage }}</h2>
<table><caption>Where the change of wall time comes from, ms a {{ stage.total.unit }}</caption>
<thead><tr><th scope="col">cause</th><th scope="col" class="n">change</th></tr></thead>
<tbody>{% for cause, ns in causes(stage) %}<tr><th scope="row">{{ cause }}</th><td class="n">{{ ms(ns) }}</td></tr>
{% endfor %}<tr><th scope="row">all</th><td class="n">{{ ms(stage.total.contribution) }}</td></tr></tbody></table>
{{ lines("Layers", stage.layers) }}
{{ lines("Rows", stage.rows) }}
</section>
{% endfor %}
</main>
</body>
</html>
"""

_LINES = """{% if lines %}<div class="scroll" role="region" aria-label="{{ title }} of {{ stage }}" tabindex="0">
<table><caption>{{ title }} of {{ stage }}; times A &gt; B in ms per {{ lines[0].unit }}</caption>
<thead><tr><th scope="col">where</th><th scope="col">verdict</th><th scope="col" class="n">busy</th>
<th scope="col" class="n">change</th><th scope="col" class="n">idle</th><th scope="col" class="n">change</th>
<th scope="col" class="n">adds</th><th scope="col">why</th></tr></thead>
<tbody>{% for line in lines %}<tr><th scope="row">{{ place(line) }}</th>
<td class="{{ line.verdict }}">{{ line.verdict }}</td>
<td class="n">{{ times(line.busy) }}</td><td class="n">{{ percent(line.busy.relative) }}</td>
<td class="n">{{ times(line.idle) }}</td><td class="n">{{ percent(line.idle.relative) }}</td>
<td class="n">{{ ms(line.contribution) }}</td><td>{{ line.reason }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
"""


def comparison_page(found: Comparison) -> str:
    """Return the page: what to be wary of, what changed and why, then every layer and row, the largest first."""
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    shared = {
        "place": place, "percent": changes.signed_percent, "ms": changes.signed_ms, "times": changes.before_after,
        "headline": changes.headline, "causes": changes.causes,
    }  # fmt: skip
    environment.globals.update(shared)
    template = environment.from_string(_LINES)

    def lines(title: str, rows: list[object]) -> Markup:
        ordered = sorted(rows, key=lambda row: -abs(row.contribution))  # type: ignore[attr-defined]
        stage = ordered[0].stage if ordered else ""  # type: ignore[attr-defined]
        return Markup(template.render(title=title, stage=stage, lines=ordered))  # noqa: S704 - the template escapes

    return environment.from_string(_TEMPLATE).render(
        found=found, lines=lines, counts=changes.counts_text(found), legend=changes.LEGEND,
        limits=changes.limits_text(found), notes=[*found.warnings, *(n for s in found.stages for n in s.notes)],
    )  # fmt: skip
