//! How reports look. PURE: one style sheet for light and dark, screen and paper.

/// The style sheet; the charts use its variables.
pub(super) const CSS: &str = "
:root { color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7fa; --ink: #1a2330; --faint: #5b6675; --line: #d5dbe3;
  --s1: #0b62c4; --s2: #b04a00; --s3: #137a4c; --s4: #7a3fd0; --s5: #b0245b; --s6: #5f6b00;
  --good: #137a4c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #11161d; --panel: #1a212b; --ink: #e6ebf2; --faint: #9fabba; --line: #36414f;
  --s1: #6db3ff; --s2: #ffab66; --s3: #5fd6a0; --s4: #c4a3ff; --s5: #ff8db5; --s6: #d3dc6a;
  --good: #5fd6a0; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.1rem 0 .3rem; overflow-wrap: anywhere; } figure h3 { margin-top: 0; }
p { margin: .3rem 0; } .faint, figcaption, dd { color: var(--faint); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.cards { display: grid; gap: .8rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); }
.card, figure { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem; margin: 0; min-width: 0; }
.card b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.grid { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure svg { display: block; width: 100%; height: auto; max-width: 46rem; margin: 0 auto; }
figure.wide svg { max-width: none; min-width: 36rem; }
svg text { font-family: inherit; }
figcaption { font-size: .85rem; margin-top: .4rem; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0;
  margin: .2rem 0 .4rem; font-size: .9rem; }
.keys i { display: inline-block; width: 1.4rem; height: 0; border-top: 3px solid; margin-right: .4rem;
  vertical-align: middle; }
.keys i.dash { border-top-style: dashed; } .keys i.thin { border-top-width: 1px; }
.keys li { overflow-wrap: anywhere; min-width: 0; }
.c1 { color: var(--s1); } .c2 { color: var(--s2); } .c3 { color: var(--s3); }
.c4 { color: var(--s4); } .c5 { color: var(--s5); } .c6 { color: var(--s6); }
.keys .faint { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; overflow-wrap: break-word; } thead th { color: var(--faint); }
tbody th { min-width: 8rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.compare td { min-width: 8rem; } table.compare thead th { white-space: normal; max-width: 14rem; }
.ok { color: var(--good); } .bad { color: var(--bad); } .verdict { font-weight: 600; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; } figure { break-inside: avoid; } }
";
