//! The page: the timeline's data and the viewer of `page/` in one document.
//!
//! Texts from peers cannot run: the data is no script, holds no `<`, and the viewer puts it into the document as text
//! only. A content security policy names the one script by its hash and forbids everything else, the network included.

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use super::Timeline;

const STYLE: &str = include_str!("page/viewer.css");
const BODY: &str = include_str!("page/body.html");

/// In the order in which they go into the one script.
const SCRIPTS: [&str; 4] = [
    include_str!("page/model.js"),
    include_str!("page/draw.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
];

/// One page with everything in it, to be opened from disk. About half a kilobyte per step.
pub fn html(timeline: &Timeline) -> String {
    let script = format!("(() => {{\n\"use strict\";\n{}}})();\n", SCRIPTS.concat());
    let policy = format!("default-src 'none'; script-src {}; style-src {}", source(&script), source(STYLE));
    [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
        "<meta http-equiv=\"Content-Security-Policy\" content=\"",
        &policy,
        "\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
        &text(&timeline.title),
        "</title>\n<style>",
        STYLE,
        "</style>\n</head>\n<body>\n",
        BODY,
        "<script type=\"application/json\" id=\"data\">",
        &data(timeline),
        "</script>\n<script>",
        &script,
        "</script>\n</body>\n</html>\n",
    ]
    .concat()
}

/// The timeline as JSON that contains nothing which could end the element around it.
pub(super) fn data(timeline: &Timeline) -> String {
    // Maps of the model have text keys and its numbers are integers, so that serialising cannot fail.
    let json = serde_json::to_string(timeline).unwrap_or_default();
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            // These occur inside of JSON strings only.
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            character => safe.push(character),
        }
    }
    safe
}

/// Text as an element's content.
fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A script or style as the policy names it.
fn source(code: &str) -> String {
    format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(code.as_bytes())))
}
