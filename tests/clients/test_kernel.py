"""jupyter_kernel_test against the installed kernelspec, and nbclient on a small notebook.

Every attribute that jupyter_kernel_test 0.7 has is set; none is left empty.
"""

import jupyter_kernel_test
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

KERNEL = "alephlab"
EVCXR = "alephlab-evcxr"
# The suite waits 15 s for any reply, and a new kernel's first cell waits for rust-analyzer to load.
FIRST_CELL_SECONDS = 180


def warm_up(client) -> None:
    """Runs a cell, and asks for a completion until there is one: the analyzer starts when it is first asked."""
    client.execute_interactive("1", timeout=FIRST_CELL_SECONDS, output_hook=lambda message: None)
    for _ in range(20):
        if client.complete("std::fs::read_to_str", reply=True, timeout=60)["content"]["matches"]:
            return
    raise AssertionError("the analyzer does not start")


@pytest.mark.usefixtures("installed_kernel")
class TestKernel(jupyter_kernel_test.KernelTests):
    """All tests of the suite but the welcome."""

    kernel_name = KERNEL
    language_name = "rust"
    file_extension = ".rs"

    code_hello_world = 'println!("hello, world")'
    code_stderr = 'eprintln!("to stderr")'
    code_page_something = ":help"
    code_generate_error = 'panic!("no")'
    code_clear_output = 'println!("a"); clear_output(false);'
    code_inspect_sample = "String::new"
    code_execute_result = [
        {"code": "1 + 2", "result": "3"},
        {"code": '"a".to_string()', "result": '"a"'},
        {"code": "vec![1, 2]", "result": "[1, 2]"},
        {"code": "Tensor::zeros(2, DType::F32, &Device::Cpu)?", "mime": "text/html"},
    ]
    code_display_data = [
        {"code": "display(&1);", "mime": "text/plain"},
        {"code": 'display_html("<b>a</b>");', "mime": "text/html"},
        {"code": 'display_markdown("*a*");', "mime": "text/markdown"},
        {"code": 'display_svg("<svg/>");', "mime": "image/svg+xml"},
        {"code": "display_png(&[1]);", "mime": "image/png"},
    ]
    completion_samples = [
        {"text": ":vers", "matches": {":version"}},
        {"text": "let sample_name = 1; sample_na", "matches": {"sample_name"}},
        {"text": "std::fs::read_to_str"},
    ]
    complete_code_samples = ["1", "let a = 1;", "fn f() -> i32 { 1 }", 'println!("{}", "}");', ':dep rand = "0.9"']
    incomplete_code_samples = ["fn f() {", "let a = vec![1,", 'let a = "b', "/* a", "let a ="]
    invalid_code_samples = ["}", "let let = 1;", "fn 1() {}"]
    supported_history_operations = ("tail", "range", "search")
    # `?` stands for one character, so this is the first of `code_execute_result`.
    code_history_pattern = "1 ? 2"

    @classmethod
    def setUpClass(cls) -> None:
        cls.km, cls.kc = start_new_kernel(kernel_name=cls.kernel_name)
        warm_up(cls.kc)


@pytest.mark.usefixtures("installed_kernel")
class TestEvcxrKernel(TestKernel):
    """The same on the other engine."""

    kernel_name = EVCXR


@pytest.mark.usefixtures("installed_kernel")
class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):
    """The first message on iopub is the welcome."""

    kernel_name = KERNEL
    support_iopub_welcome = True


def notebook(*cells: str) -> nbformat.NotebookNode:
    """A notebook of code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def run(book: nbformat.NotebookNode, kernel: str = KERNEL) -> nbformat.NotebookNode:
    return NotebookClient(book, timeout=FIRST_CELL_SECONDS, kernel_name=kernel).execute()


@pytest.mark.usefixtures("installed_kernel")
@pytest.mark.parametrize("kernel", [KERNEL, EVCXR])
def test_nbclient_runs_a_notebook_and_keeps_its_outputs(kernel: str):
    book = run(notebook("let x = 20;", 'println!("text"); x + 1'), kernel)
    assert [output.output_type for output in book.cells[1].outputs] == ["stream", "execute_result"]
    assert book.cells[1].outputs[1].data["text/plain"] == "21"
    assert book.cells[1].execution_count == 2


@pytest.mark.usefixtures("installed_kernel")
def test_nbclient_stops_at_a_panic():
    book = notebook('panic!("stop here")', 'println!("never")')
    with pytest.raises(CellExecutionError, match="stop here"):
        run(book)
    assert book.cells[0].outputs[0].ename == "Panic"
    assert book.cells[1].outputs == []
