"""`python tests/faults --help`: the whole of the faults."""

import sys
import types
from pathlib import Path

package = types.ModuleType("tests")  # another distribution may have installed a package of this name
package.__path__ = [str(Path(__file__).resolve().parents[1])]
sys.modules["tests"] = package

from tests.faults.harness import main  # noqa: E402

sys.exit(main())
