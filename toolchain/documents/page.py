"""The evaluation report's page: its style and its template. It holds no script and asks nothing of a network,
and a policy in it forbids both. Every value is escaped by the template's engine."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a1f29; --soft: #535d6e; --line: #d9dee7; --grid: #e8ebf1;
  --accent: #2457c5; --on-accent: #ffffff; --warm: #b3471d; --good: #14693a; --good-page: #e2f3e8;
  --bad: #a31621; --bad-page: #fbe4e5; --track: #e8ebf1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1a1f28; --ink: #e8ebf1; --soft: #a8b1c1; --line: #343c4a; --grid: #2a313d;
    --accent: #7ea6ff; --on-accent: #10141c; --warm: #f2a07b; --good: #7fd8a1; --good-page: #173325;
    --bad: #ff9aa0; --bad-page: #431c20; --track: #2a313d;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; }
h1 small { font-weight: 400; color: var(--soft); font-size: 1.15rem; }
h2 { font-size: 1.2rem; margin: 0 0 12px; line-height: 1.3; }
h3 { font-size: 1rem; margin: 20px 0 8px; }
p { margin: 0 0 10px; max-width: 75ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
figcaption { margin: 0 0 8px; max-width: 75ch; }
section, header { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px; margin-bottom: 18px; }
header p:last-child { margin-bottom: 0; }
.verdict { display: inline-block; font-weight: 600; border-radius: 6px; padding: 3px 10px; margin: 12px 0; }
.pass { color: var(--good); } .fail { color: var(--bad); font-weight: 600; }
.verdict.pass { background: var(--good-page); } .verdict.fail { background: var(--bad-page); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px 20px;
  margin: 12px 0 0; }
.facts + p { margin-top: 16px; }
.facts div { border-left: 3px solid var(--accent); padding-left: 10px; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.records { margin: 8px 0 0; } .records dt { color: var(--soft); font-size: .85rem; }
.records dd { margin: 0 0 8px; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 18px; }
.pair > section { margin-bottom: 0; } .pair { margin-bottom: 18px; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 3px solid var(--accent);
  outline-offset: 2px; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
tbody th { color: var(--ink); font-weight: 500; }
table:not(.stacked) tbody th { white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
.right { text-align: right; } td.right { white-space: nowrap; }
.nowrap { white-space: nowrap; }
.wide { min-width: 130px; width: 40%; }
.track { display: block; background: var(--track); border-radius: 3px; height: 12px; margin-top: 6px; }
.track span { display: block; background: var(--accent); border-radius: 3px; height: 12px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; max-width: 560px; font-size: 11.5px; }
svg text { fill: var(--ink); dominant-baseline: middle; }
svg .axis, svg .number { text-anchor: middle; } svg .end { text-anchor: end; }
svg .turned { text-anchor: start; } svg .name { fill: var(--soft); }
svg .number { font-weight: 700; }
svg polyline { fill: none; stroke: var(--accent); stroke-width: 2; }
svg .grid { stroke: var(--grid); stroke-width: 1; } svg .base { stroke: var(--soft); stroke-width: 1; }
svg .front { stroke-dasharray: 5 4; } svg .level { stroke: var(--warm); stroke-dasharray: 6 4; }
svg .bound { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg .tick-mark, svg .mean { stroke: var(--warm); stroke-width: 3; }
svg .run { stroke: var(--soft); stroke-width: 1; } svg .seed { fill: var(--accent); }
svg .mark { fill: var(--card); stroke: var(--accent); stroke-width: 2.5; }
svg .chosen { fill: var(--accent); } svg .faded { stroke: var(--soft); stroke-width: 1.5; }
svg .bar { fill: var(--accent); fill-opacity: .55; } svg .count { fill: var(--soft); fill-opacity: .55; }
svg .hit { fill: var(--accent); } svg .miss { fill: var(--warm); }
svg .cell { text-anchor: middle; } svg .strong { fill: var(--on-accent); font-weight: 600; }
ol.legend { margin: 8px 0 0; padding-left: 1.6em; font-size: .92rem; }
ul { padding-left: 1.2em; margin: 0; } li { margin-bottom: 5px; max-width: 90ch; overflow-wrap: anywhere; }
details { margin-top: 12px; font-size: .92rem; } summary { cursor: pointer; color: var(--accent); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .85rem;
  font-family: ui-monospace, "Liberation Mono", monospace; }
.case { border-top: 1px solid var(--line); padding: 12px 0; } .case:first-of-type { border-top: 0; }
.why { min-width: 220px; font-size: .88rem; overflow-wrap: anywhere; }
.wrapped .right { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 600px) {
  main { padding: 12px 10px 40px; } section, header { padding: 14px; } svg { font-size: 13px; }
  .stacked thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stacked tr { display: flex; flex-wrap: wrap; column-gap: 16px; padding: 8px 0;
    border-bottom: 1px solid var(--line); }
  .stacked tr > * { border: 0; padding: 0; text-align: left; }
  .stacked tr > :first-child, .stacked tbody th, .stacked .full { flex-basis: 100%; }
  .stacked [data-label]::before { content: attr(data-label) " "; color: var(--soft); font-weight: 400; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --grid: #ddd;
    --accent: #1d4aa8; --on-accent: #fff; --warm: #8f3512; --good: #0c5228; --good-page: #fff; --bad: #8d0f1a;
    --bad-page: #fff; --track: #e6e6e6; }
  body { font-size: 11pt; } main { padding: 0; max-width: none; }
  section, header, figure, tr, .case { break-inside: avoid; } svg { max-width: 110mm; }
  section, header { border: 0; border-bottom: 1px solid #bbb; border-radius: 0; padding: 10px 0; }
}
"""

TEMPLATE = """
{%- macro numbers(name, columns, rows, wrapped=False) -%}
<div class="scroll" tabindex="0" role="region" aria-label="{{ name }}">
<table{% if wrapped %} class="wrapped"{% endif %}><thead><tr>
{%- for column in columns %}<th scope="col"{% if not loop.first %} class="right"{% endif %}>{{ column }}</th>
{%- endfor %}</tr></thead><tbody>
{%- for row in rows %}<tr>
{%- for cell in row -%}
{%- if loop.first %}<th scope="row">{{ cell }}</th>{% else %}<td class="right">{{ cell }}</td>{% endif %}
{%- endfor %}</tr>
{%- endfor %}</tbody></table></div>
{%- endmacro -%}
{%- macro behind(name, columns, rows) -%}
<details><summary>{{ name }}</summary>{{ numbers(name, columns, rows) }}</details>
{%- endmacro -%}
{%- macro outcome(passed) -%}
<span class="nowrap {{ 'pass' if passed else 'fail' }}">{{ '✓ passed' if passed else '✗ failed' }}</span>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Evaluation of {{ name }} {{ version }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
<h1>{{ name }} {{ version }} <small>evaluation</small></h1>
<span class="verdict {{ 'pass' if passed else 'fail' }}">{{ verdict }}</span>
<p>{{ description }}</p>
{%- if limitations %}<p class="soft">Limitations: {{ limitations }}</p>{% endif %}
<p class="soft">{{ data }}</p>
<dl class="facts">
{%- for label, value in facts %}<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
</header>
{%- if remarks %}
<section aria-labelledby="remarks"><h2 id="remarks">Worth knowing</h2>
<ul>{% for remark in remarks %}<li>{{ remark }}</li>{% endfor %}</ul></section>
{%- endif %}
<section aria-labelledby="gates"><h2 id="gates">Gates</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Gates">
<table class="stacked"><thead><tr><th scope="col">outcome</th><th scope="col">gate</th>
<th scope="col">kind</th><th scope="col" class="right">value</th>
<th scope="col" class="right">margin</th></tr></thead><tbody>
{%- for gate in gates %}
<tr><td>{{ outcome(gate.passed) }}</td><th scope="row">{{ gate.name }}</th>
<td data-label="kind">{{ gate.kind }}</td><td class="right" data-label="value">{{ gate.value }}</td>
<td class="right{% if not gate.passed %} fail{% endif %}" data-label="margin">{{ gate.margin }}</td></tr>
{%- endfor %}</tbody></table></div></section>
<section aria-labelledby="variants"><h2 id="variants">Variants</h2>
{{ numbers("Variants", variants.columns, variants.rows) }}
</section>
{%- if plots %}
<div class="pair">
{%- for plot in plots %}
<section aria-labelledby="{{ plot.id }}"><h2 id="{{ plot.id }}">{{ plot.title }}</h2>
<figure><figcaption>{{ plot.caption }}</figcaption>{{ plot.svg }}
{%- if plot.legend %}
<ol class="legend">{% for item in plot.legend %}<li>{{ item }}</li>{% endfor %}</ol>
{%- endif %}
</figure>
{{ behind("The numbers of this plot", plot.columns, plot.rows) }}</section>
{%- endfor %}
</div>
{%- endif %}
{%- if search %}
<section aria-labelledby="search"><h2 id="search">Search for variants</h2>
<p>The recipe leaves its variants open, and this build follows the choice in the lock file {{ search.lock }}:
measured times vary from run to run, what is built must not. The figures here are those that the lock records,
measured by the search on {{ search.machine }}. A build with <code class="nowrap">--search</code> searches
again.</p>
{%- if search.kept %}<p>Beside what was found the recipe itself keeps {{ search.kept | join(", ") }}.</p>
{%- endif %}
<dl class="facts">
{%- for label, value in search.facts %}<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
<p class="soft">Filled marks are chosen, other blue ones are on the Pareto front too, grey ones are rejected.
On the front are those that no other of the format equals or beats in {{ search.metric }}, size and latency at
once; latencies within {{ search.noise }} are equal.</p>
{%- for group in search.groups %}
{%- if group.title %}<h3>{{ group.title }}</h3>{% endif %}
{%- if group.plots %}
<figure>
{%- if group.level %}<figcaption>Under the dashed line too much {{ search.metric }} is lost.</figcaption>
{%- endif %}
<div class="pair">{% for plot in group.plots %}<div>{{ plot }}</div>{% endfor %}</div></figure>
{%- endif %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ group.label }}">
<table class="stacked"><thead><tr><th scope="col">candidate</th><th scope="col">outcome</th>
<th scope="col" class="right">{{ search.metric }}</th><th scope="col" class="right">size</th>
<th scope="col" class="right">p50</th><th scope="col" class="right">memory</th>
<th scope="col">why</th></tr></thead><tbody>
{%- for row in group.rows %}
<tr><th scope="row" class="nowrap"><span class="soft">{{ row.number }}</span> {{ row.id }}</th>
<td class="nowrap{% if row.chosen %} pass{% endif %}">{{ row.outcome }}</td>
<td class="right" data-label="{{ search.metric }}">{{ row.quality }}</td>
<td class="right" data-label="size">{{ row.size }}</td>
<td class="right" data-label="p50">{{ row.latency }}</td>
<td class="right" data-label="memory">{{ row.memory }}</td>
<td class="why full">{{ row.why }}</td></tr>
{%- endfor %}</tbody></table></div>
{%- endfor %}
<details><summary>What the lock file records</summary><dl class="records">
{%- for label, value in search.records %}<dt>{{ label }}</dt><dd>{{ value }}</dd>{% endfor %}</dl></details>
</section>
{%- endif %}
{%- if slices %}
<section aria-labelledby="slices"><h2 id="slices">By class and slice</h2>
<p class="soft">{{ slice_caption }}</p>
{%- for group in slices %}
{%- if group.title %}<h3>{{ group.title }}</h3>{% endif %}
{%- if group.note %}<p class="soft">{{ group.note }}</p>{% endif %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ group.title }}">
<table><thead><tr><th scope="col">{{ group.what }}</th><th scope="col" class="wide">{{ metric }}</th>
<th scope="col" class="right">{{ metric }}</th><th scope="col" class="right">items</th></tr></thead><tbody>
{%- for row in group.rows %}<tr><th scope="row">{{ row.name }}</th>
<td class="wide" aria-hidden="true">
<span class="track"><span style="width:{{ row.width }}%"></span></span></td>
<td class="right">{{ row.value }}</td><td class="right">{{ row.count }}</td></tr>
{%- endfor %}</tbody></table></div>
{%- endfor %}</section>
{%- endif %}
{%- for part in tables %}
<section aria-labelledby="{{ part.id }}"><h2 id="{{ part.id }}">{{ part.title }}</h2>
{%- if part.caption %}<p class="soft">{{ part.caption }}</p>{% endif %}
{{ numbers(part.title, part.columns, part.rows, part.wrapped) }}</section>
{%- endfor %}
{%- if behaviours %}
<section aria-labelledby="behaviours"><h2 id="behaviours">Behavioural cases</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Behavioural cases">
<table><thead><tr><th scope="col">outcome</th><th scope="col">case</th><th scope="col">expected</th>
<th scope="col">got</th><th scope="col" class="right">confidence</th></tr></thead><tbody>
{%- for case in behaviours %}<tr><td>{{ outcome(case.passed) }}</td><th scope="row">{{ case.name }}</th>
<td>{{ case.expected }}</td><td>{{ case.got }}</td><td class="right">{{ case.confidence }}</td></tr>
{%- endfor %}</tbody></table></div></section>
{%- endif %}
{%- if prompts %}
<section aria-labelledby="prompts"><h2 id="prompts">Prompts</h2>
<p class="soft">Greedy answers of {{ preferred }}, and the properties that they must have.</p>
{%- for case in prompts %}
<div class="case"><h3>{{ outcome(case.passed) }} {{ case.name }}</h3>
{%- if case.failed %}<p class="fail">Lacks: {{ case.failed }}</p>{% endif %}
<pre>{{ case.answer }}</pre></div>
{%- endfor %}</section>
{%- endif %}
</main>
</body>
</html>
"""
