//! The layers of the library: which module may use which, and that no two files use each other, however indirectly.
//! `docs/architecture.md` says what each layer is for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree};

/// Each module at the crate's root with those that it may use, from the lowest to the highest.
const LAYERS: &[(&str, &[&str])] = &[
    ("arguments", &[]),
    ("bindings", &[]),
    ("clock", &[]),
    ("limits", &[]),
    ("local", &[]),
    ("sanitize", &[]),
    ("evidence", &["bindings"]),
    ("control_plane", &["bindings", "clock"]),
    ("policy", &["bindings", "clock"]),
    ("greeting", &["control_plane", "policy", "sanitize"]),
    ("journal", &["bindings", "limits"]),
    ("engine", &["bindings", "journal", "limits"]),
    ("replay", &["engine", "journal"]),
    ("store", &["bindings", "clock", "journal", "policy"]),
    (
        "driver",
        &[
            "arguments",
            "bindings",
            "clock",
            "control_plane",
            "engine",
            "greeting",
            "journal",
            "limits",
            "policy",
            "store",
        ],
    ),
    (
        "chat",
        &[
            "bindings",
            "clock",
            "control_plane",
            "driver",
            "evidence",
            "greeting",
            "journal",
            "policy",
            "sanitize",
            "store",
        ],
    ),
    ("describe", &["bindings", "chat", "control_plane", "driver", "evidence"]),
    (
        "mcp",
        &[
            "arguments",
            "bindings",
            "chat",
            "clock",
            "control_plane",
            "describe",
            "driver",
            "engine",
            "journal",
            "policy",
            "store",
        ],
    ),
    (
        "simulate",
        &[
            "bindings",
            "chat",
            "clock",
            "control_plane",
            "driver",
            "engine",
            "greeting",
            "journal",
            "policy",
            "store",
        ],
    ),
    (
        "cli",
        &[
            "bindings",
            "chat",
            "clock",
            "control_plane",
            "describe",
            "driver",
            "engine",
            "journal",
            "local",
            "mcp",
            "policy",
            "replay",
            "sanitize",
            "simulate",
            "store",
        ],
    ),
];

/// A module as the names on the way to it; the crate's root has none.
type Module = Vec<String>;

/// The library's modules, but for those that only tests have, each with the modules that its file uses.
fn modules() -> BTreeMap<Module, BTreeSet<Module>> {
    let mut files = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "lib.rs", Vec::new(), &mut files);
    let known: BTreeSet<_> = files.keys().cloned().collect();
    let mut modules = BTreeMap::new();
    for (module, file) in &files {
        let mut uses = Uses { module, known: &known, found: BTreeSet::new() };
        uses.visit_file(file);
        uses.found.remove(module);
        modules.insert(module.clone(), uses.found);
    }
    modules
}

fn read(folder: &Path, name: &str, module: Module, files: &mut BTreeMap<Module, syn::File>) {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let file = syn::parse_file(&text).unwrap();
    let below = module.last().map_or_else(|| folder.to_owned(), |last| folder.join(last));
    for item in &file.items {
        if let Item::Mod(ItemMod { attrs, ident, content: None, .. }) = item
            && !is_for_tests(attrs)
        {
            let mut child = module.clone();
            child.push(ident.to_string());
            // The generated bindings are one file elsewhere.
            if below.join(format!("{ident}.rs")).exists() {
                read(&below, &format!("{ident}.rs"), child, files);
            }
        }
    }
    files.insert(module, file);
}

fn is_for_tests(attrs: &[Attribute]) -> bool {
    let cfgs = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
    cfgs.filter_map(|attr| attr.meta.require_list().ok()).any(|cfg| {
        let condition = cfg.tokens.to_string();
        condition.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
    })
}

/// Finds what a file uses.
struct Uses<'a> {
    module: &'a Module,
    known: &'a BTreeSet<Module>,
    found: BTreeSet<Module>,
}

impl Uses<'_> {
    fn tree(&mut self, before: &[String], tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                self.tree(&before, &path.tree);
            }
            UseTree::Name(name) => self.path(&[before, &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.path(&[before, &[name.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.path(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }

    /// Notes the module in which something of this path is.
    fn path(&mut self, path: &[String]) {
        let mut module = match path[0].as_str() {
            "crate" => Vec::new(),
            "super" => self.module[..self.module.len() - 1].to_vec(),
            _ => self.module.clone(),
        };
        let names = path.iter().map(String::as_str).skip_while(|name| ["crate", "self"].contains(name));
        for (index, name) in names.enumerate() {
            match name {
                // The first is seen to.
                "super" if index > 0 => drop(module.pop()),
                "super" => {}
                name => module.push(name.to_owned()),
            }
        }
        while !self.known.contains(&module) {
            module.pop();
        }
        self.found.insert(module);
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attrs: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attrs) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    /// Who may see something is no use of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if ["crate", "super"].contains(&names[0].as_str()) {
            self.path(&names);
        }
        visit::visit_path(self, path);
    }
}

#[test]
fn every_module_uses_only_modules_of_the_layers_below_it() {
    let mut lower = BTreeSet::new();
    for (module, may_use) in LAYERS {
        assert!(
            may_use.iter().all(|used| lower.contains(used)),
            "{module} uses something that comes after it"
        );
        lower.insert(*module);
    }
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for (module, uses) in modules().iter().filter(|(module, _)| !module.is_empty()) {
        let name = module[0].as_str();
        let Some(may_use) = layers.get(name) else { panic!("{name} is in no layer: add it to the table") };
        for used in uses.iter().filter_map(|used| used.first()).filter(|used| *used != name) {
            assert!(
                may_use.contains(&used.as_str()),
                "{} uses {used}, which the table does not allow: use something lower, or change the layers",
                module.join("::")
            );
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut left = modules();
    // Whatever uses nothing that is left cannot be in a circle.
    loop {
        let names: BTreeSet<_> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, uses| uses.iter().any(|used| names.contains(used)));
        if left.len() == before {
            break;
        }
    }
    // Nor can whatever nothing uses that is left.
    loop {
        let used: BTreeSet<_> = left.values().flatten().cloned().collect();
        let before = left.len();
        left.retain(|module, _| used.contains(module));
        if left.len() == before {
            break;
        }
    }
    let circle: Vec<_> = left
        .iter()
        .map(|(module, uses)| {
            let uses: Vec<_> =
                uses.iter().filter(|used| left.contains_key(*used)).map(|used| used.join("::")).collect();
            format!("{} uses {}", module.join("::"), uses.join(", "))
        })
        .collect();
    assert!(circle.is_empty(), "these files use each other in circles:\n{}", circle.join("\n"));
}
