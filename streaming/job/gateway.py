"""A JVM for PyFlink that nobody but this process may drive.

PyFlink's own gateway executes what anybody on this machine sends to its port, which is open while a
job is being submitted. Py4J can ask for a token, which here goes from the JVM to this process by a
pipe. PyFlink also has a server of its own for calls from Java to Python; a job without Python
functions needs none, and there is none.
"""

from __future__ import annotations

import os
import subprocess
import threading

from streaming.errors import StreamingError

SERVER = "org.apache.flink.api.python.shaded.py4j.GatewayServer"


def open_gateway() -> None:
    """Start the JVM, and make PyFlink use it; it ends with this process.

    Raises:
        StreamingError: if the JVM does not start, with what it says.
    """
    from py4j.java_gateway import GatewayParameters, JavaGateway
    from pyflink import java_gateway
    from pyflink import pyflink_gateway_server as server
    from pyflink.util.exceptions import install_exception_handler, install_py4j_hooks

    environment = dict(os.environ)
    server.prepare_environment_variables(environment)
    class_path = [
        server.construct_flink_classpath(environment),
        server.construct_hadoop_classpath(environment),
    ]
    jvm = subprocess.Popen(  # noqa: S603 (the Java that PyFlink would run)
        [
            server.find_java_executable(),
            *environment.get("JVM_ARGS", "").split(),
            "-XX:+IgnoreUnrecognizedVMOptions",
            *server.get_jvm_opts(environment),
            f"-Dlog4j.configurationFile={environment['FLINK_CONF_DIR']}/log4j-cli.properties",
            f"-Dlog.file={os.devnull}",
            "-cp",
            os.pathsep.join(filter(None, class_path)),
            SERVER,
            "--die-on-broken-pipe",
            "--enable-auth",
            "0",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert jvm.stdout is not None  # noqa: S101
    port, token = jvm.stdout.readline().strip(), jvm.stdout.readline().strip()
    if not port.isdigit() or not token:
        raise StreamingError(f"the JVM of the Flink client did not start (it says {port!r})")
    # What it may say later is not waited for, and must not fill the pipe.
    threading.Thread(target=jvm.stdout.read, daemon=True).start()
    java_gateway._gateway = JavaGateway(
        gateway_parameters=GatewayParameters(port=int(port), auto_convert=True, auth_token=token),
        java_process=jvm,
    )
    java_gateway.import_flink_view(java_gateway._gateway)
    install_exception_handler()
    install_py4j_hooks()
