"""The demo's page: one template, no assets beside it."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sidecar: ten calls from one sync view</title>
<link rel="icon" href="data:,">
<style>
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1b2430;
  --soft: #5d6b7c; --line: #e1e6ec; --track: #eef1f5;
  --together: #0f8a6d; --together-light: #35b796; --apart: #b9652b; --apart-light: #dd9059;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --card: #1a2029; --ink: #e6ebf1; --soft: #93a1b2; --line: #2a333f; --track: #222a35;
    --together: #2fb592; --together-light: #6fdcc0; --apart: #d98a4e; --apart-light: #f0b585;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 60rem; margin: 0 auto; }
h1 { font-size: 1.7rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 .4rem; }
.lead { color: var(--soft); margin: 0 0 1.75rem; max-width: 46rem; }
code, .id, td, th { font-family: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, monospace; }
code { font-size: .9em; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .9rem 2rem; margin: 0; }
dl div.wide { grid-column: 1 / -1; }
dt { color: var(--soft); font-size: .78rem; text-transform: uppercase; letter-spacing: .06em; }
dd { margin: 0; overflow-wrap: anywhere; }
.id { font-size: 1.05rem; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem 1.4rem; margin-bottom: 1.1rem;
}
h2 {
  display: flex; justify-content: space-between; align-items: baseline; gap: 1rem;
  font-size: 1rem; margin: 0;
}
h2 .total { font-size: 1.35rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.together .total { color: var(--together); }
.apart .total { color: var(--apart); }
.how { color: var(--soft); font-size: .88rem; margin: .1rem 0 .9rem; }
table { width: 100%; border-collapse: collapse; font-size: .82rem; }
td, th { padding: .14rem 0; font-weight: 400; text-align: left; }
td.name { width: 4.6rem; color: var(--soft); }
td.time { width: 4.6rem; text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; height: .85rem; background: var(--track); border-radius: 4px; overflow: hidden; }
.bar { position: absolute; top: 0; bottom: 0; border-radius: 4px; min-width: 2px; }
.together .bar { background: linear-gradient(90deg, var(--together), var(--together-light)); }
.apart .bar { background: linear-gradient(90deg, var(--apart), var(--apart-light)); }
footer { color: var(--soft); font-size: .88rem; margin-top: 1.5rem; }
a { color: var(--together); }
</style>
</head>
<body>
<main>
<h1>Ten calls from one sync view, {{ "%.1f" | format(result.times_faster) }} times as fast</h1>
<p class="lead">A Flask view under uWSGI awaited ten HTTP calls with one <code>httpx.AsyncClient</code>, which
lives on this worker's own event loop and keeps its connections from request to request.</p>

<section>
<dl>
  <div class="wide"><dt>Request id</dt><dd class="id">{{ result.request_id }}</dd></div>
  <div><dt>Worker</dt><dd>{{ result.worker }}, pid {{ result.pid }}</dd></div>
  <div><dt>Request thread</dt><dd>{{ result.thread }}</dd></div>
  <div><dt>Requests this client has served</dt><dd>{{ result.client_uses }}</dd></div>
  <div><dt>Upstream saw the id</dt><dd>{{ result.ids_seen }} of {{ result.ids_expected }} times</dd></div>
</dl>
</section>
{% for run, kind, title, how in (
  (result.together, "together", "All at once", "asyncio.gather of ten calls, in one run_sync"),
  (result.apart, "apart", "One after another", "the same ten calls, each awaited before the next begins"),
) %}
<section class="{{ kind }}">
<h2><span>{{ title }}</span><span class="total">{{ "%.0f" | format(run.total * 1000) }} ms</span></h2>
<p class="how">{{ how }}</p>
<table aria-label="{{ title }}: when each call began and how long it took">
{% for call in run.calls %}
<tr>
  <td class="name">item {{ call.item }}</td>
  <td><div class="track"><div class="bar" style="left: {{ "%.2f" | format(100 * call.begin / scale) }}%;
    width: {{ "%.2f" | format(100 * (call.end - call.begin) / scale) }}%"></div></div></td>
  <td class="time">{{ "%.0f" | format((call.end - call.begin) * 1000) }} ms</td>
</tr>
{% endfor %}
</table>
</section>
{% endfor %}
<footer>Both charts have the same scale. The id is also in this answer's <code>X-Request-ID</code> header
and in uWSGI's access log. The same as JSON: <a href="/api">/api</a></footer>
</main>
</body>
</html>
"""
