"""The configuration of the whole pipeline: each part's `Config`, composed from one TOML file.

Precedence, highest first: command-line flags, `SPARC_...` variables (`SPARC_TRAINER__BATCH_SIZE`
for `batch_size` in the section `[trainer]`), the TOML file, the defaults in the code.
`sparc config show` prints the effective result in the form of the file.

Secrets (see `streaming.secret`) are shown and written as asterisks. The processes of a pipeline get
them by a variable; a question from another terminal takes them from its own variables, from the
file that the pipeline was started with (`secrets_file`), or from one given with `--config`.

    composed  every section, and what follows from several
    servers   the sections of Kafka, Flink and the ports
    sources   flags, variables, the file
    reading   the effective configuration
    checking  what is wrong, by the name of the setting
    explanation  every setting with what it means
    former    settings of older versions
    writing   the form of the file
"""

from deploy.settings.checking import SECRETS, SettingsError
from deploy.settings.composed import CONFIG, DATA, LATEST, MARK, ROOT, Settings
from deploy.settings.reading import load, without_settings
from deploy.settings.servers import Flink, Kafka, Ports
from deploy.settings.writing import as_toml, complete, passed_on

__all__ = [
    "CONFIG",
    "DATA",
    "LATEST",
    "MARK",
    "ROOT",
    "SECRETS",
    "Flink",
    "Kafka",
    "Ports",
    "Settings",
    "SettingsError",
    "as_toml",
    "complete",
    "load",
    "passed_on",
    "without_settings",
]
