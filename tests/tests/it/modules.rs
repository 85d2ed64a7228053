//! The modules of the core import each other in one direction. A method may be in a file above its type.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_module_of_the_core_imports_one_that_imports_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../redlock-core/src");
    let mut imports = Imports::new();
    for file in sources(&src) {
        let module = module(file.strip_prefix(&src).unwrap());
        // The suite is a user of the API, by its paths.
        if module != "lib" && module != "conformance" {
            imports.entry(module).or_default().extend(imported(&fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(imports["rounds"].contains("votes") && imports["votes"].contains("fan_out"), "{imports:?}");
    assert_eq!(circular(imports), [] as [&str; 0], "these import each other");
}

#[test]
fn a_cycle_of_modules_is_detected() {
    let text = "use crate::{\n    a::{A, B},\n    b::C,\n};\nfn f() {\n    crate::c::d();\n}\n// use crate::e::E;\n#[cfg(test)]\nmod tests {\n    use crate::f::F;\n}\n";
    assert_eq!(imported(text), ["a", "b", "c"].map(ToOwned::to_owned).into());
    let imports = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "c")];
    let imports = imports.map(|(from, to)| (from.to_owned(), [to.to_owned()].into()));
    assert_eq!(circular(imports.into()), ["b", "c"]);
}

/// The modules on a cycle, or between two cycles.
fn circular(mut imports: Imports) -> Vec<String> {
    // A module is on no cycle if no remaining module imports it, or if it imports none of them.
    loop {
        let left: BTreeSet<String> = imports.keys().cloned().collect();
        let used: BTreeSet<String> = imports.values().flatten().cloned().collect();
        imports.retain(|module, of| {
            used.contains(module) && of.iter().any(|to| to != module && left.contains(to))
        });
        if imports.len() == left.len() {
            return left.into_iter().collect();
        }
        let left: BTreeSet<String> = imports.keys().cloned().collect();
        imports.values_mut().for_each(|of| of.retain(|to| left.contains(to)));
    }
}

/// The modules that a file names with `crate::`, outside of its tests and comments.
fn imported(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text
        .lines()
        .take_while(|line| *line != "mod tests {")
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let mut found = BTreeSet::new();
    for rest in code.join("\n").split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.extend(first_name(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = 0;
                for (at, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            found.extend(first_name(&list[start..at]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.extend(first_name(&list[start..at]));
                            start = at + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// The module that a path begins with.
fn first_name(path: &str) -> Option<String> {
    let name = path.trim_start().split("::").next()?;
    let is_module =
        path.contains("::") && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    is_module.then(|| name.to_owned())
}

fn module(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
