// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// For tests only: a token that answers as it is told for each recipient, and calls whom it is told while it transfers.
contract HostileToken {
    enum Answer {
        True,
        Nothing,
        False,
        Two,
        Short,
        Revert,
        BurnGas,
        Huge,
        HugeRevert,
        NeedsGas
    }

    mapping(address account => uint256 amount) public balanceOf;
    mapping(address recipient => Answer answer) public answerTo;
    address public target;
    bytes public message;
    /// What the last call to `target` came to; kept out of the transfer's own answer.
    bool public called;
    bytes public result;

    constructor() {
        balanceOf[msg.sender] = 500_000_000 ether;
    }

    function setAnswer(address recipient, Answer answer) external {
        answerTo[recipient] = answer;
    }

    /// Calls `target_` with `message_` in the next transfer, once.
    function callBack(address target_, bytes calldata message_) external {
        target = target_;
        message = message_;
    }

    function transfer(address to, uint256 amount) external {
        Answer answer = answerTo[to];
        if (answer == Answer.Revert) revert("refused");
        if (answer == Answer.BurnGas) while (true) {}
        if (answer == Answer.NeedsGas) {
            // Nearly all that a transfer gets; a little less, and it says no without using it up.
            if (gasleft() < 247_000) revert("more gas");
            while (gasleft() > 60_000) {}
        }
        if (answer == Answer.HugeRevert) _finish(true, 100_000);
        if (answer == Answer.False) _word(0, 32);
        if (answer == Answer.Two) _word(2, 32);
        if (answer == Answer.Short) _word(0, 31);
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
        if (target != address(0)) {
            address target_ = target;
            target = address(0);
            (called, result) = target_.call(message);
        }
        if (answer == Answer.Nothing) _finish(false, 0);
        if (answer == Answer.Huge) {
            assembly {
                mstore(0, 1)
                return(0, 100000)
            }
        }
        _word(1, 32);
    }

    function _word(uint256 word, uint256 size) private pure {
        assembly {
            mstore(0, word)
            return(0, size)
        }
    }

    function _finish(bool reverts, uint256 size) private pure {
        assembly {
            if reverts { revert(0, size) }
            return(0, size)
        }
    }
}
