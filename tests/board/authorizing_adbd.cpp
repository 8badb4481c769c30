// The socket at which adbd asks the owner of the device whether a host may come in; on Android init makes it.
// Who connects to /run/adbd stands for the screen: he gets "PK" and the host's public key, and answers "OK" or "NO".

#include <cutils/sockets.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

int android_get_control_socket(const char*) {
    static const int listener = [] {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, "/run/adbd");
        const int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        return bind(made, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ? made : -1;
    }();
    return listener;
}
