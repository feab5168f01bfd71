//! `#[derive(Rich)]`: values of a cell's own type are shown as a table of their fields.
//!
//! Expands to code that names `::alephlab`, as cells can. What a table looks like is `alephlab::display::fields`'.

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Fields, Generics, Ident, parse_macro_input, parse_quote};

/// Shows values as a table of their fields, each as its `Debug` text; of an enum, those of its variant.
///
/// A type without parameters is shown so wherever it stands alone; one with parameters as the value of a cell.
#[proc_macro_derive(Rich)]
pub fn derive_rich(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).into()
}

fn expand(input: &DeriveInput) -> proc_macro2::TokenStream {
    let name = &input.ident;
    let title = name.to_string();
    let arms = match &input.data {
        Data::Struct(data) => vec![arm(&quote!(#name), &title, &data.fields)],
        Data::Enum(data) if data.variants.is_empty() => {
            vec![quote!(_ => ::alephlab::display::fields(#title, &[]))]
        }
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let variant_name = &variant.ident;
                let title = format!("{title}::{variant_name}");
                arm(&quote!(#name::#variant_name), &title, &variant.fields)
            });
            variants.collect()
        }
        Data::Union(data) => {
            let message = "a union does not know which of its fields it holds, so it cannot be shown";
            return syn::Error::new(data.union_token.span, message).to_compile_error();
        }
    };
    let generics = with_debug(&input.generics);
    let (impl_generics, type_generics, condition) = generics.split_for_impl();
    let found = if input.generics.params.is_empty() {
        // Run when the library that holds the type is loaded.
        quote! {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static REGISTER: extern "C" fn() = {
                extern "C" fn register() {
                    ::alephlab::display::register::<#name>();
                }
                register
            };
        }
    } else {
        quote! {
            impl #impl_generics #name #type_generics #condition {
                /// Shows the value as the result of a cell.
                pub fn evcxr_display(&self) {
                    ::alephlab::display::show_result(::alephlab::display::Rich::bundle(self));
                }
            }
        }
    };
    quote! {
        const _: () = {
            impl #impl_generics ::alephlab::display::Rich for #name #type_generics #condition {
                fn bundle(&self) -> ::alephlab::display::Bundle {
                    match self { #(#arms),* }
                }
            }
            #found
        };
    }
}

/// `Point { x: f0, y: f1 } => fields("Point", &[("x", f0), ("y", f1)])`
fn arm(path: &proc_macro2::TokenStream, title: &str, fields: &Fields) -> proc_macro2::TokenStream {
    let bound: Vec<Ident> = (0..fields.len())
        .map(|number| format_ident!("f{number}"))
        .collect();
    let names: Vec<String> = fields
        .iter()
        .enumerate()
        .map(|(number, field)| match &field.ident {
            Some(name) => name.unraw().to_string(),
            None => number.to_string(),
        })
        .collect();
    let pattern = match fields {
        Fields::Named(named) => {
            let idents = named.named.iter().map(|field| &field.ident);
            quote!(#path { #(#idents: #bound),* })
        }
        Fields::Unnamed(_) => quote!(#path(#(#bound),*)),
        Fields::Unit => quote!(#path),
    };
    quote!(#pattern => ::alephlab::display::fields(#title, &[#((#names, #bound)),*]))
}

fn with_debug(generics: &Generics) -> Generics {
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::core::fmt::Debug));
    }
    generics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(input: &DeriveInput) -> String {
        expand(input).to_string()
    }

    #[test]
    fn fields_are_named_or_numbered_and_generic_types_have_a_method_in_place_of_a_constructor() {
        let point = expanded(&parse_quote!(
            struct Point {
                x: f64,
                r#type: u8,
            }
        ));
        assert!(
            point.contains(r#"[("x" , f0) , ("type" , f1)]"#) && point.contains("init_array"),
            "{point}"
        );
        let wrapped = expanded(&parse_quote!(
            struct Wrapped<'a, T: Clone, const N: usize>(&'a [T; N])
            where
                T: Copy;
        ));
        assert!(
            wrapped.contains("evcxr_display") && wrapped.contains(r#"("0" , f0)"#),
            "{wrapped}"
        );
        let shape = expanded(&parse_quote!(
            enum Shape {
                Unknown,
                Circle(f64),
                Square { side: f64 },
            }
        ));
        for title in ["Shape::Unknown", "Shape::Circle", "Shape::Square"] {
            assert!(shape.contains(title), "{shape}");
        }
    }

    #[test]
    fn a_union_is_refused_with_the_reason() {
        let text = expanded(&parse_quote!(
            union Bits {
                a: u32,
                b: f32,
            }
        ));
        assert!(
            text.contains("compile_error") && text.contains("does not know"),
            "{text}"
        );
    }
}
