"""Style and script of the HTML report. The page is readable without the script, which only filters."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b2230;--soft:#5a6579;--line:#dfe3ea;--paper:#f6f7f9;--card:#fff;--good:#17693b;
--bad:#b3261e;--open:#8a5a00;--mem0:#7a4fc9;--spectron:#0b7a75;--same:#eef6f1;--new:#fff4d6}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf2;--soft:#a4adbd;--line:#333c4c;--paper:#12161e;--card:#1a202b;
--good:#6fd08c;--bad:#ff8a80;--open:#f0c060;--mem0:#b99bf0;--spectron:#4cc2b8;--same:#1d2b26;--new:#3a3115}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;
margin:0 auto;padding:1rem}
h1{font-size:1.35rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .6rem}p{margin:.4rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;margin:0 0 .8rem}
.verdict{border-left:8px solid var(--open)}.verdict.GO{border-left-color:var(--good)}
.verdict.NO_GO{border-left-color:var(--bad)}
.verdict b{font-size:.85rem;letter-spacing:.06em}.GO b{color:var(--good)}.NO_GO b{color:var(--bad)}
.INCONCLUSIVE b{color:var(--open)}
.private{color:var(--bad);font-weight:600;font-size:.9rem}.soft{color:var(--soft);font-size:.9rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:.8rem 0}
.tile{margin:0}.tile strong{display:block;font-size:1.5rem;line-height:1.2}.tile.bad strong{color:var(--bad)}
.tile.open strong{color:var(--open)}.tile.good strong{color:var(--good)}
summary{cursor:pointer;font-weight:600}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
td{overflow-wrap:anywhere}th{color:var(--soft);font-weight:600}
.number{text-align:right;font-variant-numeric:tabular-nums}
.passed,.accepted{color:var(--good)}.FAILED{color:var(--bad);font-weight:700}.undecided,.not-measured{color:var(--open)}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1.2rem}.sides h4{margin:.5rem 0 .2rem;font-size:.85rem}
.sides h4.mem0{color:var(--mem0)}.sides h4.spectron{color:var(--spectron)}
article h3{font-size:1rem;margin:0}ol{margin:0;padding:0;list-style:none}
li{display:grid;grid-template-columns:3.2rem 1fr;gap:.5rem;padding:.2rem .4rem;border-radius:6px;overflow-wrap:anywhere}
li.same{background:var(--same)}li.new{background:var(--new)}li.wanted .hit{font-weight:600}
.rank{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}mark{background:var(--new);color:inherit}
.why{display:inline-block;border:1px solid var(--line);border-radius:99px;padding:0 .6rem;font-size:.8rem;
color:var(--soft);font-weight:400}
svg{width:100%;height:auto;max-height:60rem}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.axis{stroke:var(--line)}figure{margin:1rem 0}
.mem0{fill:var(--mem0)}.spectron{fill:var(--spectron)}polyline.mem0,polyline.spectron{fill:none;stroke-width:2}
polyline.mem0{stroke:var(--mem0)}polyline.spectron{stroke:var(--spectron);stroke-dasharray:6 3}
.steps li{grid-template-columns:9.5rem 1fr}
fieldset{border:1px solid var(--line);border-radius:10px;display:flex;gap:1rem;flex-wrap:wrap;align-items:center;
margin:0 0 .8rem;min-width:0}label{max-width:100%}
input,select{font:inherit;max-width:100%}[hidden]{display:none!important}
@media(max-width:560px){.sides,.steps li{grid-template-columns:1fr}body{padding:.6rem}td,th{padding:.3rem}
.stacks thead{display:none}.stacks tr,.stacks td{display:block}.stacks tr{border-bottom:1px solid var(--line)}
.stacks td{border:0}.stacks td[data-of]::before{content:attr(data-of)": ";color:var(--soft)}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--same:#fff;--new:#fff}
fieldset{display:none}.card{break-inside:avoid}mark{text-decoration:underline}}
"""
SCRIPT = """
const cards=[...document.querySelectorAll('article')],by=name=>document.getElementById(name);
const user=by('user'),why=by('why'),scope=by('scope'),words=by('words'),count=by('count');
function show(){let n=0;const wanted=words.value.toLowerCase();for(const card of cards){
const ok=(!user.value||card.dataset.user===user.value)&&(!why.value||card.dataset.why.split(' ').includes(why.value))
&&(!scope.value||JSON.parse(card.dataset.scopes).includes(scope.value))
&&(!wanted||card.textContent.toLowerCase().includes(wanted));
card.hidden=!ok;n+=ok;}count.textContent=n+' of '+cards.length+' queries';}
if(user){by('filters').hidden=false;for(const one of [user,why,scope,words])one.addEventListener('input',show);show();}
"""
