//! The most that is accepted of a file, or made from it at import. All are settings, up to what the importer itself can bear.

use tersor_ir::diag::Result;
use tersor_ir::{Diagnostic, Failure};

macro_rules! limits {
    ($($(#[$meta:meta])* $name:ident: $default:expr, most $most:expr;)*) => {
        /// Limits of an import.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct Limits {
            $($(#[$meta])* pub $name: usize,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Names and values, in the order of declaration.
            pub fn entries(&self) -> Vec<(&'static str, usize)> {
                vec![$((stringify!($name), self.$name),)*]
            }
            /// Sets the limit of that name.
            pub fn set(&mut self, name: &str, value: usize) -> Result<()> {
                match name {
                    $(stringify!($name) if value <= $most => self.$name = value,
                    stringify!($name) => return Err(usage(format!("the limit {name} can be {} at most", $most))),)*
                    _ => {
                        let names: Vec<&str> = self.entries().into_iter().map(|e| e.0).collect();
                        return Err(usage(format!("there is no limit {name}")).with_help(format!("limits are {}", names.join(", "))));
                    }
                }
                Ok(())
            }
        }
    };
}

fn usage(message: String) -> Diagnostic {
    Diagnostic::error("O0009", message).failure(Failure::Usage)
}

limits! {
    /// Bytes of the model file, external data apart.
    file_bytes: 64 << 30, most usize::MAX;
    /// Nodes of the graph.
    nodes: 5_000_000, most u32::MAX as usize;
    /// Nodes that nested graphs and functions come to where they stand, all repetitions counted.
    expanded_nodes: 1 << 18, most u32::MAX as usize;
    /// Nested graphs and calls.
    graph_nesting: 64, most 64;
    /// Nested messages: each nested graph is a graph, a node and an attribute.
    message_nesting: 200, most 200;
    /// Bytes of a name.
    name_bytes: 4096, most 1 << 20;
    /// Axes of a tensor.
    rank: 32, most 32;
    /// Elements of a result that is computed at import because all operands are constants.
    folded_elements: 1 << 16, most 1 << 28;
    /// Multiply-adds of all results that are computed at import.
    folded_work: 1 << 28, most usize::MAX;
    /// Elements of all sequences together.
    sequence_elements: 1 << 21, most u32::MAX as usize;
    /// Elements of constants that shape arithmetic looks into.
    shape_elements: 1024, most 1 << 16;
    /// The most that an extent can be which the run computes (`Range` up to a number that the data decide); 0 refuses such extents. Memory is planned for it.
    computed_extent: 0, most 1 << 24;
    /// Rows and columns of a decoded image whose size the model does not declare. Memory is planned for it.
    image_extent: 2048, most 1 << 15;
    /// Bytes of a sparse initializer when all its elements are written out.
    sparse_bytes: 512 << 20, most usize::MAX;
}

impl Limits {
    /// An error that names the limit and how to raise it.
    pub(crate) fn exceeded(&self, code: &'static str, name: &str, what: String) -> Diagnostic {
        let most = self.entries().into_iter().find(|e| e.0 == name).map_or(0, |e| e.1);
        let d = Diagnostic::error(code, format!("{what}, the limit {name} is {most}"));
        d.failure(Failure::Limit).with_help(format!("--limit {name}=NUMBER sets another"))
    }
}
