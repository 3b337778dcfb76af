//! What of an agent is in the kernel: programs, what attaches them, maps.

use std::{collections::BTreeSet, fs};

use aya::{
    maps::loaded_maps,
    programs::{ProgramInfo, loaded_links, loaded_programs},
};

/// Objects of the kernel, by their numbers. A number is not handed out again before all others were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) links: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
}

impl Objects {
    /// Those that a process has descriptors of.
    pub(crate) fn of(pid: i32) -> Self {
        let mut objects = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
            // One may be closed meanwhile.
            let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            let number = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name));
                value.map(|value| value.trim().parse::<u32>().unwrap())
            };
            objects.links.extend(number("link_id:"));
            objects.maps.extend(number("map_id:"));
            // A link tells the number of its program, too.
            objects.programs.extend(number("prog_id:"));
        }
        objects
    }

    /// Those of them that are in the kernel now.
    pub(crate) fn that_are_left(&self) -> Self {
        // What goes while it is looked at is left out.
        let programs = loaded_programs().flatten().map(|it| it.id());
        let links = loaded_links().flatten().map(|it| it.id());
        let maps = loaded_maps().flatten().map(|it| it.id());
        Self {
            programs: programs.filter(|id| self.programs.contains(id)).collect(),
            links: links.filter(|id| self.links.contains(id)).collect(),
            maps: maps.filter(|id| self.maps.contains(id)).collect(),
        }
    }

    /// What the kernel knows of the programs.
    pub(crate) fn programs(&self) -> Vec<ProgramInfo> {
        let all = loaded_programs().flatten();
        all.filter(|program| self.programs.contains(&program.id())).collect()
    }
}
