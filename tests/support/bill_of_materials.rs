//! What is built into the program, from `cargo metadata` on stdin: `sbom` prints a CycloneDX bill of materials, `licences`
//! the licence texts of all linked crates. What the toolchain links on top of the crates is named in both.
//!
//!     cargo metadata --locked --format-version 1 --filter-platform TRIPLE |
//!         bill-of-materials sbom|licences "$(rustc --version)"

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_root: String,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: String,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

/// `kind` is null for what is linked, `dev` or `build` for what is not.
#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// The lock file, for the checksums that crates were fetched by.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The program and everything that is linked into it.
struct Linked<'a> {
    root: &'a Package,
    /// By name and version; the root is not among them.
    crates: Vec<&'a Package>,
    /// Who links whom, by package id.
    links: BTreeMap<&'a str, Vec<&'a str>>,
}

fn linked(metadata: &Metadata) -> Result<Linked<'_>, Box<dyn Error>> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let root =
        metadata.packages.iter().find(|package| package.name == "campaign-sync" && package.source.is_none());
    let root = root.ok_or("cargo metadata knows no package campaign-sync")?;
    let (mut links, mut seen, mut next) = (BTreeMap::new(), BTreeSet::new(), vec![root.id.as_str()]);
    while let Some(id) = next.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).ok_or_else(|| format!("cargo metadata resolves no {id}"))?;
        let normal = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let mut uses: Vec<&str> = node.deps.iter().filter(normal).map(|used| used.pkg.as_str()).collect();
        uses.sort_unstable();
        next.extend(&uses);
        links.insert(id, uses);
    }
    let mut crates: Vec<&Package> =
        seen.iter().filter(|id| **id != root.id).filter_map(|id| packages.get(id).copied()).collect();
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(Linked { root, crates, links })
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// What the toolchain links: name, SPDX expression, copyright. None ships a licence file with the compiler's minimal profile.
const RUNTIME: [(&str, &str, &str); 2] = [
    ("Rust's standard library", "MIT OR Apache-2.0", "Copyright (c) The Rust Project Contributors"),
    ("musl libc", "MIT", "Copyright (c) 2005-2020 Rich Felker, et al."),
];

/// The conditions of both.
const MIT: &str = "\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the \"Software\"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.";

/// A crate's licence as an SPDX expression: `/` is an older way to write OR.
fn expression(package: &Package) -> Option<String> {
    package.license.as_ref().map(|license| license.replace('/', " OR ").replace("  ", " "))
}

fn sbom(metadata: &Metadata, compiler: &str) -> Result<String, Box<dyn Error>> {
    let lock: Lock =
        toml::from_str(&fs::read_to_string(Path::new(&metadata.workspace_root).join("Cargo.lock"))?)?;
    let checksums: BTreeMap<(&str, &str), &str> = lock
        .package
        .iter()
        .filter_map(|locked| Some(((&*locked.name, &*locked.version), locked.checksum.as_deref()?)))
        .collect();
    let linked = linked(metadata)?;
    let component = |package: &Package, kind: &str| {
        let mut component = json!({
            "type": kind,
            "bom-ref": purl(package),
            "name": package.name,
            "version": package.version,
            "purl": purl(package),
        });
        if let Some(description) = &package.description {
            component["description"] = json!(description.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if let Some(expression) = expression(package) {
            component["licenses"] = json!([{ "expression": expression }]);
        }
        if let Some(checksum) = checksums.get(&(&*package.name, &*package.version)) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    };
    let refs: BTreeMap<&str, String> =
        metadata.packages.iter().map(|package| (package.id.as_str(), purl(package))).collect();
    let dependencies: Vec<Value> = linked
        .links
        .iter()
        .map(|(id, uses)| json!({ "ref": refs[id], "dependsOn": uses.iter().map(|used| &refs[used]).collect::<Vec<_>>() }))
        .collect();
    let mut components: Vec<Value> =
        linked.crates.iter().map(|package| component(package, "library")).collect();
    for (name, expression, _) in RUNTIME {
        components.push(json!({
            "type": "library",
            "bom-ref": name,
            "name": name,
            "version": compiler,
            "description": "linked by the compiler",
            "licenses": [{ "expression": expression }],
        }));
    }
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(linked.root, "application") },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill)?)
}

/// A crate's own licence files, by name.
fn texts(package: &Package) -> Result<Vec<String>, Box<dyn Error>> {
    let folder = Path::new(&package.manifest_path).parent().ok_or("a manifest without a folder")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().to_uppercase()).unwrap_or_default();
        if path.is_file()
            && ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"]
                .iter()
                .any(|word| name.starts_with(word))
        {
            files.push(path);
        }
    }
    files.sort();
    let read =
        |path| Ok::<_, std::io::Error>(String::from_utf8_lossy(&fs::read(path)?).trim().replace('\r', ""));
    files.iter().map(|path| Ok(read(path)?)).collect()
}

/// Each text once, below the names of all crates that come under it.
fn licences(metadata: &Metadata, compiler: &str) -> Result<String, Box<dyn Error>> {
    let linked = linked(metadata)?;
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut document = String::from(
        "The licences of everything that is linked into campaign-sync.\n\nCrates, with their licences as SPDX expressions:\n\n",
    );
    for package in std::iter::once(linked.root).chain(linked.crates.iter().copied()) {
        let name = format!("{} {}", package.name, package.version);
        let expression = expression(package).unwrap_or_else(|| "see its text".into());
        document += &format!("  {name}: {expression}\n");
        let texts = texts(package)?;
        if texts.is_empty() {
            document += "    (the crate ships no licence file; the expression names the standard text)\n";
        }
        for text in texts {
            by_text.entry(text).or_default().push(name.clone());
        }
    }
    for (name, expression, copyright) in RUNTIME {
        document += &format!("  {name}, of {compiler}: {expression}\n");
        by_text.entry(format!("{copyright}\n\n{MIT}")).or_default().push(name.into());
    }
    let mut sections: Vec<(&Vec<String>, &String)> =
        by_text.iter().map(|(text, names)| (names, text)).collect();
    sections.sort();
    for (names, text) in sections {
        document += &format!("\n{}\n{}\n{}\n\n{text}\n", "-".repeat(80), names.join(", "), "-".repeat(80));
    }
    Ok(document)
}

/// The document of this name (`sbom`, `licences`) for what `cargo metadata` has printed.
pub fn document(name: &str, compiler: &str, metadata: &str) -> Result<String, Box<dyn Error>> {
    let metadata: Metadata = serde_json::from_str(metadata)?;
    match name {
        "sbom" => sbom(&metadata, compiler),
        "licences" => licences(&metadata, compiler),
        _ => Err(format!("no document is called {name}: sbom, licences").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, compiler] = arguments.as_slice() else {
        return Err("usage: bill-of-materials sbom|licences COMPILER".into());
    };
    let mut metadata = String::new();
    std::io::stdin().read_to_string(&mut metadata)?;
    println!("{}", document(name, compiler, &metadata)?);
    Ok(())
}
