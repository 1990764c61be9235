//! One self-contained HTML page from the document that a command gives with `--json`.
//!
//! Everything is in the page: styles, charts as SVG, no scripts, nothing fetched. What the document does not have is left out.

use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;color:#1c2330;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem;border-bottom:1px solid #d8dde6}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #eef0f4}
td:first-child,th:first-child,td.l,th.l{text-align:left}th{font-weight:600;color:#56607a}tr.on td{background:#eaf3ff}
.muted{color:#56607a}.bad{color:#b3261e}pre{background:#f6f7f9;padding:.8rem;overflow:auto;font-size:12.5px;max-height:32rem}
svg text{font:12px system-ui,sans-serif;fill:#1c2330}svg .axis{stroke:#9aa3b5}svg .bar{fill:#4c78a8}svg .pick{fill:#e4572e}svg .line{stroke:#4c78a8;fill:none}";

/// Text in HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

fn text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        v => v.to_string(),
    }
}

fn bytes(v: &Value) -> String {
    v.as_f64().map_or(String::new(), |b| tersor_runtime::cli::bytes(b as u64))
}

fn seconds(v: &Value) -> String {
    v.as_f64()
        .map_or(String::new(), |s| if s < 1e-3 { format!("{:.1} µs", s * 1e6) } else { format!("{:.3} ms", s * 1e3) })
}

fn number(v: &Value) -> String {
    v.as_f64().map_or(String::new(), |e| if e == 0.0 { "0".into() } else { format!("{e:.3e}") })
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

/// The page.
pub fn page(title: &str, data: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>\n",
        escape(title)
    );
    let facts = ["pipeline", "strategy", "metric", "budget", "targets"];
    let facts: Vec<String> =
        facts.iter().filter(|k| !data[**k].is_null()).map(|k| format!("{k}: {}", escape(&text(&data[*k])))).collect();
    let _ = writeln!(out, "<p class=\"muted\">{}</p>", facts.join("<br>"));
    if data["fits"] == false {
        out.push_str("<p class=\"bad\">No plan was found under the budget; this is the nearest.</p>");
    }
    summary(&mut out, data);
    sensitivity(&mut out, data);
    plot(&mut out, data);
    plan(&mut out, data);
    decisions(&mut out, data);
    if let Some(diff) = data["diff"].as_str() {
        let _ = writeln!(out, "<h2>What changes in the program</h2><pre>{}</pre>", escape(diff));
    }
    out.push_str("</body></html>\n");
    out
}

fn summary(out: &mut String, data: &Value) {
    let (exact, plan) = (&data["exact"], &data["measured"]);
    if exact.is_null() || plan.is_null() {
        return;
    }
    out.push_str("<h2>Before and after</h2><table><tr><th>quantity</th><th>exact</th><th>plan</th><th>ratio</th></tr>");
    type Show = fn(&Value) -> String;
    let rows: [(&str, &str, Show); 6] = [
        ("size of weights", "size", bytes),
        ("as they are encoded", "encoded", bytes),
        ("expected latency", "latency", seconds),
        ("memory", "memory", bytes),
        ("multiply-adds", "work", number),
        ("error", "error", number),
    ];
    for (name, key, show) in rows {
        let ratio = match (exact[key].as_f64(), plan[key].as_f64()) {
            (Some(a), Some(b)) if a > 0.0 && key != "error" => format!("{:.3}x", b / a),
            _ => String::new(),
        };
        let _ = write!(
            out,
            "<tr><td>{name}</td><td>{}</td><td>{}</td><td>{ratio}</td></tr>",
            show(&exact[key]),
            show(&plan[key])
        );
    }
    if let (Some(a), Some(b)) = (data["perplexity"]["exact"].as_f64(), data["perplexity"]["plan"].as_f64()) {
        let _ = write!(out, "<tr><td>perplexity</td><td>{a:.4}</td><td>{b:.4}</td><td>{:.3}x</td></tr>", b / a);
    }
    out.push_str("</table>");
    if let Some(e) = data["standard_error"].as_f64() {
        let _ = write!(out, "<p class=\"muted\">The error's standard error is {e:.1e}.</p>");
    }
}

/// The error that each site causes alone, at its coarsest alternative and at the one that the plan picks, on a logarithmic scale.
fn sensitivity(out: &mut String, data: &Value) {
    let rows = list(&data["table"]);
    let errors = |r: &Value| -> Vec<f64> {
        list(&r["alternatives"]).iter().skip(1).filter_map(|a| a["error"].as_f64()).collect()
    };
    let most = rows.iter().flat_map(errors).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    out.push_str("<h2>Sensitivity: error when one site alone is changed</h2><p class=\"muted\">Blue: the alternative with the largest error. Red: the one in the plan. Logarithmic, five decades.</p>");
    let x = |e: f64| if e <= 0.0 { 0.0 } else { ((e / most).log10() / 5.0 + 1.0).clamp(0.004, 1.0) * 560.0 };
    let _ = write!(
        out,
        "<svg width=\"1040\" height=\"{}\" role=\"img\" aria-label=\"error of each site\">",
        rows.len() * 20 + 4
    );
    for (i, r) in rows.iter().enumerate() {
        let y = i * 20 + 3;
        let worst = errors(r).into_iter().fold(0.0, f64::max);
        let picked = list(&r["alternatives"])
            .iter()
            .find(|a| a["name"] == r["picked"])
            .and_then(|a| a["error"].as_f64())
            .unwrap_or(0.0);
        let name = text(&r["sites"]);
        let short: String = if name.chars().count() > 46 {
            format!("…{}", name.chars().skip(name.chars().count() - 45).collect::<String>())
        } else {
            name.clone()
        };
        let _ = write!(
            out,
            "<g><title>{}: {worst:.3e}, in the plan {picked:.3e}</title><text x=\"340\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"bar\" x=\"350\" y=\"{y}\" width=\"{:.1}\" height=\"8\"/><rect class=\"pick\" x=\"350\" y=\"{}\" width=\"{:.1}\" height=\"5\"/><text x=\"920\" y=\"{}\">{worst:.2e}</text></g>",
            escape(&name),
            y + 11,
            escape(&short),
            x(worst),
            y + 9,
            x(picked),
            y + 11
        );
    }
    out.push_str("</svg>");
}

/// Size, error and latency of a measured plan, and whether it is the chosen one.
type Dot = (f64, f64, f64, bool);

/// Size against error of the measured plans.
fn plot(out: &mut String, data: &Value) {
    let points: Vec<Dot> = list(&data["front"])
        .iter()
        .filter_map(|p| {
            let of = |key: &str| p["costs"][key].as_f64();
            Some((of("size")?, of("error")?, of("latency")?, p["chosen"] == true))
        })
        .collect();
    if points.len() < 2 {
        return;
    }
    let (w, h, left, top) = (900.0, 320.0, 80.0, 12.0);
    let most = |f: &dyn Fn(&Dot) -> f64| points.iter().map(f).fold(f64::MIN_POSITIVE, f64::max);
    let mx = most(&|p| p.0) * 1.05;
    let high = most(&|p| p.1).log10().ceil();
    let least = points.iter().map(|p| p.1).filter(|e| *e > 0.0).fold(f64::MAX, f64::min);
    let low = least.log10().floor().clamp(high - 8.0, high - 1.0);
    let y = |e: f64| top + h - ((e.max(f64::MIN_POSITIVE).log10() - low) / (high - low)).max(0.0) * h;
    let at = |p: &Dot| (left + p.0 / mx * (w - left), y(p.1));
    let _ = write!(
        out,
        "<h2>Measured plans: size and error</h2><svg width=\"{w}\" height=\"{}\" role=\"img\" aria-label=\"Pareto front\">",
        h + 60.0
    );
    let _ = write!(out, "<path class=\"axis\" fill=\"none\" d=\"M{left} {top}V{}H{w}\"/>", top + h);
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>",
            left + share * (w - left),
            top + h + 18.0,
            if i == 4 { "end" } else { "middle" },
            tersor_runtime::cli::bytes((mx * share) as u64)
        );
    }
    for decade in low as i32..=high as i32 {
        let e = 10f64.powi(decade);
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{e:.0e}</text>", left - 8.0, y(e) + 4.0);
    }
    let line: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", at(p).0, at(p).1)).collect();
    let _ = write!(out, "<polyline class=\"line\" points=\"{}\"/>", line.join(" "));
    for p in &points {
        let ((x, y), chosen) = (at(p), p.3);
        let _ = write!(
            out,
            "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\"><title>{}, error {:.3e}, {:.3} ms</title></circle>",
            if chosen { "pick" } else { "bar" },
            if chosen { 6 } else { 4 },
            tersor_runtime::cli::bytes(p.0 as u64),
            p.1,
            p.2 * 1e3
        );
    }
    let _ = write!(
        out,
        "<text x=\"{w}\" y=\"{}\" text-anchor=\"end\">size of weights; error on a logarithmic scale (red: the plan)</text></svg>",
        top + h + 40.0
    );
}

fn plan(out: &mut String, data: &Value) {
    let rows = list(&data["table"]);
    if rows.is_empty() {
        return;
    }
    out.push_str("<h2>Plan</h2><table><tr><th>site</th><th class=\"l\">alternative</th><th>size</th><th>latency</th><th>error alone</th></tr>");
    for r in rows {
        for a in list(&r["alternatives"]) {
            let on = a["name"] == r["picked"];
            let _ = write!(
                out,
                "<tr{}><td>{}</td><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                if on { " class=\"on\"" } else { "" },
                escape(&text(&r["sites"])),
                escape(&text(&a["name"])),
                bytes(&a["size"]),
                seconds(&a["latency"]),
                number(&a["error"])
            );
        }
    }
    out.push_str("</table>");
}

fn decisions(out: &mut String, data: &Value) {
    let all = list(&data["decisions"]);
    if all.is_empty() {
        return;
    }
    out.push_str("<h2>Decisions</h2><table><tr><th>site</th><th class=\"l\">pass</th><th class=\"l\">taken</th><th>before</th><th>after</th><th>rel-l2 at the site</th></tr>");
    for d in all {
        let taken = if d["picked"].is_null() { format!("kept: {}", text(&d["reason"])) } else { text(&d["picked"]) };
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"l\">{}</td><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&text(&d["site"])),
            escape(&text(&d["pass"])),
            escape(&taken),
            bytes(&d["bytes_before"]),
            bytes(&d["bytes_after"]),
            number(&d["rel_l2"])
        );
    }
    out.push_str("</table>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_cannot_leave_their_place_and_every_part_is_there() {
        let costs = |size: f64, error: f64| json!({ "error": error, "size": size, "latency": 1e-3, "memory": size, "work": 1e6 });
        let data = json!({
            "pipeline": "<script>", "exact": costs(100.0, 0.0), "measured": costs(40.0, 0.01), "fits": true,
            "table": [{ "sites": ["a\"><b>"], "picked": "w4", "alternatives": [
                { "name": "exact", "error": 0.0, "size": 100, "latency": 1e-3 }, { "name": "w4", "error": 0.01, "size": 40, "latency": 1e-3 }] }],
            "front": [{ "costs": costs(40.0, 0.01) }, { "costs": costs(100.0, 0.0) }],
            "decisions": [{ "site": "a", "pass": "quantize", "picked": "w4", "bytes_before": 100, "bytes_after": 40, "rel_l2": 0.01 }],
            "diff": "- <matmul>",
        });
        let html = page("t & t", &data);
        for part in [
            "t &amp; t",
            "&lt;script&gt;",
            "a&quot;&gt;&lt;b&gt;",
            "Before and after",
            "Sensitivity",
            "<polyline",
            "Plan",
            "Decisions",
            "- &lt;matmul&gt;",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<script") && !html.contains("http"));
        assert!(page("x", &json!({})).ends_with("</html>\n"));
    }
}
