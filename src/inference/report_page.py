# SPDX-License-Identifier: Apache-2.0
"""The HTML of a report: everything within one file, which asks nothing of a network.

The page of a target is drawn when it is opened; one viewer, moved from target to target, is enough and spares
the few WebGL contexts that a browser has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from foldwright.inference.report_targets import Shown

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;color:#222}
table{border-collapse:collapse}td,th{padding:.15rem 1rem .15rem 0;text-align:right;
border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}img{max-width:100%}
figure{display:inline-block;margin:1rem 1.5rem 0 0}rect{fill:#47a}text{font-size:11px;fill:#444}
#viewer{position:relative;width:100%;height:460px;border:1px solid #ccc}.target[hidden]{display:none}
button{font:inherit;margin:0 .3rem .3rem 0}button.open{background:#47a;color:#fff}"""

_PROGRAM = """
const held = {viewer: null, models: {}, shown: {predicted: true, truth: true}, colour: "pLDDT", open: null};
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
}
function ofConfidence(atom) {
  return atom.b >= 90 ? "#0053d6" : atom.b >= 70 ? "#65cbf3" : atom.b >= 50 ? "#ffdb13" : "#ff7d45";
}
function draw() {
  const hues = ["#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d"];
  const chains = [];
  const ofChain = atom => {
    if (!chains.includes(atom.chain)) chains.push(atom.chain);
    return hues[chains.indexOf(atom.chain) % hues.length];
  };
  for (const [kind, model] of Object.entries(held.models)) {
    const paint = kind == "truth" ? {color: "#999999"}
      : {colorfunc: held.colour == "pLDDT" ? ofConfidence : ofChain};
    model.setStyle({}, {});
    if (held.shown[kind]) {
      model.setStyle({hetflag: false}, {cartoon: paint, line: paint});
      model.setStyle({hetflag: true}, {stick: {radius: 0.15, ...paint}});
    }
  }
  held.viewer.render();
}
async function openTarget(number) {
  held.open = number;
  for (const section of document.querySelectorAll(".target"))
    section.hidden = section.id != "target-" + number;
  for (const button of document.querySelectorAll("#targets button"))
    button.classList.toggle("open", button.dataset.target == number);
  document.querySelector("#stage").hidden = false;
  const of = STRUCTURES[number];
  const texts = {};
  for (const kind of ["predicted", "truth"]) if (of[kind]) texts[kind] = await unpacked(of[kind]);
  if (held.open != number) return;
  held.viewer ??= $3Dmol.createViewer("viewer", {backgroundColor: "white", preserveDrawingBuffer: true});
  held.viewer.removeAllModels();
  held.models = {};
  for (const [kind, text] of Object.entries(texts)) held.models[kind] = held.viewer.addModel(text, "cif");
  held.viewer.zoomTo();
  draw();
  document.body.dataset.drawn = number;
}
for (const button of document.querySelectorAll("#targets button"))
  button.onclick = () => openTarget(button.dataset.target);
for (const box of document.querySelectorAll("#stage input"))
  box.onchange = () => { held.shown[box.name] = box.checked; draw(); };
for (const choice of document.querySelectorAll("#stage select"))
  choice.onchange = () => { held.colour = choice.value; draw(); };
"""

_STAGE = """<div id="stage" hidden><div id="viewer"></div><p>
<label><input type="checkbox" name="predicted" checked> predicted</label>
<label><input type="checkbox" name="truth" checked> true (grey)</label>
<label>colour by <select><option>pLDDT</option><option>chain</option></select></label>
<small>pLDDT: 90 and more dark blue, 70 light blue, 50 yellow, less orange</small></p></div>"""


def section(title: str, *parts: str) -> str:
    """A titled part of the page; empty where all its parts are."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text cells."""
    if not rows:
        return ""
    lines = ["<table><tr>" + "".join(f"<th>{escape(cell)}" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def picture(uri: str, caption: str = "") -> str:
    """An image within the page; nothing for an empty URI."""
    return f'<p><img alt="{escape(caption)}" src="{uri}"></p>' if uri else ""


def targets(shown: Sequence[Shown]) -> str:
    """Buttons of the targets, the viewer, and a page a target, of which one is seen."""
    if not shown:
        return ""
    buttons = [f'<button data-target="{n}">{escape(target.name)}</button>' for n, target in enumerate(shown)]
    pages = []
    for number, target in enumerate(shown):
        figures = [(name, f"{value:.4g}") for name, value in target.figures.items()]
        parts = f"{picture(target.maps, 'maps')}{table(('metric', ''), figures)}"
        heading = f"<h3>{escape(target.name)}</h3>"
        pages.append(f'<div class="target" id="target-{number}" hidden>{heading}{parts}</div>')
    return "\n".join(['<p id="targets">', *buttons, "</p>", _STAGE, *pages])


def page(title: str, sections: Sequence[str], shown: Sequence[Shown], viewer: str) -> str:
    """The whole page. `viewer`: the JavaScript of 3Dmol.js, needed where there are targets."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    structures = [{"predicted": target.predicted, "truth": target.truth} for target in shown]
    scripts = [viewer, f"const STRUCTURES = {json.dumps(structures)};", _PROGRAM] if shown else []
    tags = "\n".join("<script>" + text.replace("</script", "<\\/script") + "</script>" for text in scripts)
    body = "\n".join([f"<h1>{escape(title)}</h1>", *filter(None, sections), tags])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'
